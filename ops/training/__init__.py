"""What a network is trained with: its architecture, simulated images of labelled anatomy, loss and loop."""
