"""What operators compute, as tensor expressions in ONNX's layouts; how they run is `schedules`' matter."""
