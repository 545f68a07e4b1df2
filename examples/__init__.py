"""Real projects for `fairlead up`: a text classifier, a digit classifier and a code-only model.

Each folder holds what a project of yours would hold: the data and the script that trains, or the
code; the release files; and requests with the answers they must get. Nothing here is imported by
Fairlead itself.
"""
