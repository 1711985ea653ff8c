"""Tune a QLoRA adapter of the base on the dataset."""

from pipelines.command import main

if __name__ == "__main__":
    main("train", __doc__ or "")
