"""Training and evaluation; nothing here is imported when serving."""
