"""Run a network on a volume: one Predictor contract, one thin module per runtime, a sliding window over them."""
