"""Speculative decoding: who drafts, and how long a draft is worth its while."""
