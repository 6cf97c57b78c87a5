"""From accepted predictions and true labels to scores, ranks, and what these are worth."""
