pub fn placeholders() {}
