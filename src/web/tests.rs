//! Pages and links over real connections.
