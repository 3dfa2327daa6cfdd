"""Files of numbers and of text: columns, times, names. The one reader for training, prepare and check; never torch."""
