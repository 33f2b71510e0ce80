//! The date for templates that tell the model today's: Python's `strftime` in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// Seconds since 1970 in UTC.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// Formats a moment; letters that are not known stay as they are.
pub(super) fn strftime(format: &str, seconds: u64) -> String {
    let moment = Moment::new(seconds);
    let mut text = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        match letters.next() {
            Some('-') => match letters.next() {
                Some(letter) => text.push_str(unpadded(&moment.field(letter))),
                None => text.push_str("%-"),
            },
            Some(letter) => text.push_str(&moment.field(letter)),
            None => text.push('%'),
        }
    }
    text
}

fn unpadded(field: &str) -> &str {
    let trimmed = field.trim_start_matches(['0', ' ']);
    if trimmed.is_empty() { "0" } else { trimmed }
}

struct Moment {
    year: u64,
    month: u64,
    day: u64,
    day_of_year: u64,
    weekday: usize,
    second: u64,
}

impl Moment {
    fn new(seconds: u64) -> Self {
        let days = seconds / 86_400;
        let (mut year, mut rest) = (1970, days);
        while rest >= days_in_year(year) {
            rest -= days_in_year(year);
            year += 1;
        }
        let (mut month, day_of_year) = (1, rest + 1);
        while rest >= days_in_month(year, month) {
            rest -= days_in_month(year, month);
            month += 1;
        }
        let weekday = (days % 7) as usize;
        Self { year, month, day: rest + 1, day_of_year, weekday, second: seconds % 86_400 }
    }

    fn field(&self, letter: char) -> String {
        let (hour, minute, second) = (self.second / 3600, self.second / 60 % 60, self.second % 60);
        let month = MONTHS[self.month as usize - 1];
        let day = DAYS[self.weekday];
        match letter {
            'Y' => self.year.to_string(),
            'y' => format!("{:02}", self.year % 100),
            'm' => format!("{:02}", self.month),
            'd' => format!("{:02}", self.day),
            'e' => format!("{:2}", self.day),
            'j' => format!("{:03}", self.day_of_year),
            'B' => month.to_owned(),
            'b' | 'h' => month[..3].to_owned(),
            'A' => day.to_owned(),
            'a' => day[..3].to_owned(),
            'H' => format!("{hour:02}"),
            'I' => format!("{:02}", (hour + 11) % 12 + 1),
            'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            'M' => format!("{minute:02}"),
            'S' => format!("{second:02}"),
            'F' => format!("{}-{:02}-{:02}", self.year, self.month, self.day),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            'Z' => "UTC".to_owned(),
            'z' => "+0000".to_owned(),
            '%' => "%".to_owned(),
            other => format!("%{other}"),
        }
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_year(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_in_month(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn known_moments() {
        assert_eq!(strftime("%d %b %Y", 0), "01 Jan 1970");
        // date -u -d @1709210096: Thu Feb 29 12:34:56 UTC 2024
        assert_eq!(
            strftime("%A, %-d %B %Y %H:%M:%S %I%p day %j", 1_709_210_096),
            "Thursday, 29 February 2024 12:34:56 12PM day 060"
        );
        assert_eq!(
            strftime("%F %T %y %a %e %-m 100%% %Q %", 951_782_400),
            "2000-02-29 00:00:00 00 Tue 29 2 100% %Q %"
        );
        assert_eq!(strftime("%d.%m.%Y %I%p", 4_102_444_799), "31.12.2099 11PM");
    }
}
