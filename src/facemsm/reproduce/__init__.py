"""The paper's tables and figures, computed anew from data and weights, beside what the paper prints."""
