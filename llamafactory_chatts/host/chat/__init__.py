"""Answers: chat, API, and generation while a training evaluates."""
