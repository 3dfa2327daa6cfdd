"""A folder -> a model, tensor by tensor, and what stands in for parts of it to save memory."""
