"""What happens when processes and servers die."""
