"""What a Space on the Hub shows of the metric: a table to fill in, its values, and its card."""

from evaluate.utils import launch_gradio_widget

from hf_compalign.metrics import load_metric

if __name__ == "__main__":
    launch_gradio_widget(load_metric("calibration_shift"))
