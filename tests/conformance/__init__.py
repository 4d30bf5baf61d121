"""What a user of the library may rely on: one suite for both queues, on every kind of server."""
