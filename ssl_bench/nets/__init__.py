"""Networks that timm does not have."""
