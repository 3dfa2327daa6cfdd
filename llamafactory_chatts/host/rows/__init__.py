"""Dataset files -> rows -> tokens, and the batch that the model gets."""
