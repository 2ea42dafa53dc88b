"Synthetic data sets: chest radiographs with reports, and the layouts of MIMIC-CXR and CBIS-DDSM."
