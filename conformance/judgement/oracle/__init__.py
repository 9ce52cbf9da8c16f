"""Admissible choices where rounding or a tie decides, and the assignments that follow from them."""
