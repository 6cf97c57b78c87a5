"""Builds the example challenge: footage, fakes, submissions and their images, all from pinned packages."""
