"""The parts of the app's pages. Streamlit is imported here and in the pages alone."""
