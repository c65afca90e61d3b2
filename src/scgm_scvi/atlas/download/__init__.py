"""Files and documents from other people's servers: asked politely, resumed, checked."""
