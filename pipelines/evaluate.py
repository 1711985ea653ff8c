"""Ask the base and the tuned model, score both, give the verdict and register the model version."""

from pipelines.command import main

if __name__ == "__main__":
    main("evaluate", __doc__ or "")
