//! The Portcullis agent and its command.
