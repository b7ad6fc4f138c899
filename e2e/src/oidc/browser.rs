//! A person's browser, as far as a login by forms needs one: cookies by path, redirects, and forms that are filled and sent.

use std::collections::BTreeMap;

use anyhow::Context;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::wire::{self, Answer};

const LONGEST_WAY: usize = 20;

/// Cookies of one server.
pub struct Browser {
    base: String,
    ca: String,
    /// By path and name.
    cookies: BTreeMap<(String, String), String>,
}

impl Browser {
    /// Knows no cookie yet.
    pub fn new(base: &str, ca: &str) -> Self {
        Self { base: base.to_owned(), ca: ca.to_owned(), cookies: BTreeMap::new() }
    }

    /// Fetches a path.
    ///
    /// # Errors
    /// When the server does not answer in HTTP.
    pub async fn get(&mut self, target: &str) -> anyhow::Result<Answer> {
        self.send("GET", target, &[], "").await
    }

    /// Sends a form.
    ///
    /// # Errors
    /// As [`Browser::get`].
    pub async fn post(&mut self, target: &str, form: &[(&str, &str)]) -> anyhow::Result<Answer> {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let pairs: Vec<String> =
            form.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        let kind = ("Content-Type".to_owned(), "application/x-www-form-urlencoded".to_owned());
        self.send("POST", target, &[kind], &pairs.join("&")).await
    }

    /// Sends anything.
    ///
    /// # Errors
    /// As [`Browser::get`].
    pub async fn send(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(String, String)],
        body: &str,
    ) -> anyhow::Result<Answer> {
        let (_, host) = self.base.split_once("://").context("a URL")?;
        let fits = |path: &str| target.starts_with(path.trim_end_matches('/'));
        let cookies = self.cookies.iter().filter(|((path, _), _)| fits(path));
        let cookies: Vec<String> = cookies.map(|((_, name), value)| format!("{name}={value}")).collect();
        let mut head =
            format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAccept: */*\r\n");
        if !cookies.is_empty() {
            head.push_str(&format!("Cookie: {}\r\n", cookies.join("; ")));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        let answer = wire::exchange(&self.base, &self.ca, head.as_bytes()).await?;
        for (_, cookie) in answer.headers.iter().filter(|(name, _)| name == "set-cookie") {
            self.keep(cookie);
        }
        Ok(answer)
    }

    fn keep(&mut self, cookie: &str) {
        let mut parts = cookie.split(';').map(str::trim);
        let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else { return };
        let path = parts.clone().find_map(|part| part.strip_prefix("Path=")).unwrap_or("/").to_owned();
        let key = (path, name.to_owned());
        if value.is_empty() || parts.any(|part| part == "Max-Age=0") {
            self.cookies.remove(&key);
        } else {
            self.cookies.insert(key, value.to_owned());
        }
    }

    /// Goes from `target` through redirects and forms until it is sent to an address that begins with `goal`; returns that
    /// address. Fields of forms that are named in `known` are filled with its values, hidden ones stay as they are.
    ///
    /// # Errors
    /// When the way ends elsewhere; the message is the page.
    pub async fn go(&mut self, target: &str, known: &[(&str, &str)], goal: &str) -> anyhow::Result<String> {
        let mut answer = self.get(target).await?;
        for _ in 0..LONGEST_WAY {
            if let Some(location) = answer.header("location") {
                if location.starts_with(goal) {
                    return Ok(location.to_owned());
                }
                let next = self.path(location)?;
                answer = self.get(&next).await?;
                continue;
            }
            let page = answer.text();
            let form = Form::read(&page).with_context(|| format!("{}: no form: {page}", answer.code))?;
            let fields: Vec<(&str, &str)> = form
                .fields
                .iter()
                .map(|(name, value)| {
                    let filled = known.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
                    (name.as_str(), filled.unwrap_or(value))
                })
                .collect();
            let action = self.path(&form.action)?;
            answer = self.post(&action, &fields).await?;
        }
        anyhow::bail!("no end of redirects and forms: {}", answer.text())
    }

    fn path(&self, location: &str) -> anyhow::Result<String> {
        let path = location.strip_prefix(self.base.as_str()).unwrap_or(location);
        anyhow::ensure!(path.starts_with('/'), "sent elsewhere: {location}");
        Ok(path.to_owned())
    }
}

/// The first form of a page.
struct Form {
    action: String,
    fields: Vec<(String, String)>,
}

impl Form {
    fn read(page: &str) -> Option<Form> {
        let start = page.to_ascii_lowercase().find("<form")?;
        let page = page.get(start..)?;
        let end = page.to_ascii_lowercase().find("</form>").unwrap_or(page.len());
        let form = page.get(..end)?;
        let action = attribute(form.split('>').next()?, "action")?;
        let inputs =
            form.split('<').filter(|tag| tag.get(..5).is_some_and(|name| name.eq_ignore_ascii_case("input")));
        let fields = inputs
            .filter_map(|tag| {
                let tag = tag.split('>').next()?;
                Some((attribute(tag, "name")?, attribute(tag, "value").unwrap_or_default()))
            })
            .collect();
        Some(Form { action, fields })
    }
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let tag: String = tag.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    let at = tag.to_ascii_lowercase().find(&format!(" {name}=\""))? + name.len() + 3;
    Some(text(tag.get(at..)?.split('"').next()?))
}

/// Without HTML's character references.
fn text(html: &str) -> String {
    let mut pieces = html.split('&');
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (name, rest) = piece.split_once(';').unwrap_or((piece, ""));
        let number = name.strip_prefix('#').and_then(|number| match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => number.parse().ok(),
        });
        let named = match name {
            "amp" => Some('&'),
            "quot" => Some('"'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            _ => number.and_then(char::from_u32),
        };
        text.extend(named);
        text.push_str(rest);
    }
    text
}
