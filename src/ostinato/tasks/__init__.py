"""What a recurrent network is trained for: one task, one file; models, data and metrics."""
