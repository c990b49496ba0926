"""Benchmarks and the makers of the shipped sample data; nothing here is needed to run the workbook."""
