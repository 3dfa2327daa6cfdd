"""Label files and folders of series -> a dataset, with rejects and provenance."""
