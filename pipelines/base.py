"""Build the tiny base model, or fetch the hub's weights: what every later stage tunes, exports or asks."""

from pipelines.command import main

if __name__ == "__main__":
    main("base", __doc__ or "")
