"""What several methods share: backbones, augmentations, losses, masked autoencoders."""
