"""Compile conversations and pictures into train, validation and test rows for the base's processor."""

from pipelines.command import main

if __name__ == "__main__":
    main("dataset", __doc__ or "")
