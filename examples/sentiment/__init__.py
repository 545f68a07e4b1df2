"""Sentiment of a short English text: trained here, on sentences written for this project."""
