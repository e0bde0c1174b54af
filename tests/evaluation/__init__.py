"""Tests of the room that evaluates."""
