"""Classifiers that another exporter wrote: what a person says of them, and what runs of them."""
