"""Serve a model through Ollama or llama.cpp, checked by a question with a picture."""

from pipelines.command import main

if __name__ == "__main__":
    main("deploy", __doc__ or "")
