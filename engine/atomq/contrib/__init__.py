"""Adapters: what other workers need to run on the engine. They translate and decide nothing."""
