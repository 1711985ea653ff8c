"""Merge the adapter and write GGUF files, a Modelfile and the parity certificate."""

from pipelines.command import main

if __name__ == "__main__":
    main("export", __doc__ or "")
