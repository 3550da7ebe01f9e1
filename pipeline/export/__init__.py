"""`export`: images of a lake as a data set, and its rows as FHIR resources and OMOP tables."""
