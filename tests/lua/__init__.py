"""The scripts, proved on real servers."""
