"""How an installed model is doing: acceptance, validation loss, calibration, and whether to retrain."""
