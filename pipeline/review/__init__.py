"""The review of images by people: a local web application, and answers in CSV files."""
