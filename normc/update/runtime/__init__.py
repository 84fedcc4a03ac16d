"""What runs a generated update, with torch alone: embedded in every exported file.

May import update.kernels.
"""
