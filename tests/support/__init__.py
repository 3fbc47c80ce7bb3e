"""Helpers that several tests share. The first line of each module says what it is for."""
