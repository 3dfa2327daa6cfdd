"""What a run says: progress, and what to change when memory runs out."""
