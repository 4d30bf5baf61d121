"""What atomq costs, beside other queues on Redis: see README.md."""
