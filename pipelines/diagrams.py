"""Draw architecture diagrams from the seed prompts: typed graphs, pictures, pixel-exact boxes."""

from pipelines.command import main

if __name__ == "__main__":
    main("diagrams", __doc__ or "")
