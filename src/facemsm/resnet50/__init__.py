"""The baseline of the ablation: a Res-50 that regresses coordinates (Section IV-G)."""
