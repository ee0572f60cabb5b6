"""Conversations and their messages: what was said, and what it led to."""
