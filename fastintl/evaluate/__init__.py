"""The evaluation of a backbone: k-NN, linear probes, fine-tuning."""
