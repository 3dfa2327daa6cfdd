"""One reading of dataset_info entries, of an example and of its `timeseries` cell. Never torch."""
