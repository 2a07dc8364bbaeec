"""Metrics of many pictures: apparent age, identity and realism."""
