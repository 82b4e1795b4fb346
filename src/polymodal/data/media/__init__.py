"""Decoding one media file, and the pure functions that turn it into arrays."""
