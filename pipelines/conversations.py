"""Have a teacher talk about the diagrams: questions and answers, each checked against the graph."""

from pipelines.command import main

if __name__ == "__main__":
    main("conversations", __doc__ or "")
