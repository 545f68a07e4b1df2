"""Revision after revision under constant load: does anything fail, leak or grow?"""
